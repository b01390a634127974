"""One Python call for each verb of the command line."""
