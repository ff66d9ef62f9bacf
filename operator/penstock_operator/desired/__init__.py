"""From a spec to manifests, purely: the same spec gives the same manifests."""
