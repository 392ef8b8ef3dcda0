"""Pages that play a network by themselves: `page` writes one, `image` the memory of its engine."""
