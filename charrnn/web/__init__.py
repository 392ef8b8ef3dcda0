"""Self-contained pages that play a network: `page` writes one, `memory_image` what its engine reads."""
