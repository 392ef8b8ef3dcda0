"""The listening page of charrnn-listen."""
