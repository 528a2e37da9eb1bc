"""What a home holds: configuration, keys, genesis; and a network of homes for trying out."""
