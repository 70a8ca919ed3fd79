"""Several folds as one thing: trained in processes of their own, scored on cases they did not see, combined."""
