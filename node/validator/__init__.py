"""A validator: the chain on its disk, the loop that drives a replica, and what it hands out."""
