"""One run: shards, price, tree, tasks and the order in which they are carried out."""
