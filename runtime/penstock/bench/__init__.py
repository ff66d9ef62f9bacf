"""`penstock bench`: each figure beside the limit of the machine it was measured on, and an installed peer."""
