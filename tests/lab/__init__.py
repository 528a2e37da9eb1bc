"""The attack laboratory: federations in one process, some of whose sites are dishonest."""
