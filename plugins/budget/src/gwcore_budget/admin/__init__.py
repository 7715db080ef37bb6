"""The plugin's endpoints of the admin API, in LiteLLM's formats."""
