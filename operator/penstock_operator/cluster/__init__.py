"""The API server and the pods: everything that is read from them and written to them."""
