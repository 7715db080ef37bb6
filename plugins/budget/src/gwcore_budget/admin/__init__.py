"""The plugin's addresses of the admin API, in LiteLLM's shapes."""
