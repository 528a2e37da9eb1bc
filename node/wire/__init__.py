"""Connections and blobs: mutual TLS, the mesh of validators, content-addressed transfer."""
