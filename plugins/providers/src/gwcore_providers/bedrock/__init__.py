"""bedrock: Amazon Bedrock, its credentials, signatures and framing."""
