"""The browser page: what the commands do, for several visitors of one model."""
