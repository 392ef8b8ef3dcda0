"""Networks in torch, and the configuration that describes them."""
