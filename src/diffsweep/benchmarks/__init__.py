"""What ``benchmark.py`` measures, one file a subject, and the peers that it measures beside."""
