"""The commands of `concilium`, by who uses them. What needs torch or LevelDB is imported late."""
