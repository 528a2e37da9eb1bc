"""The light client: follows a chain by its certificates, keeps what it followed, finds forks."""
