"""How two Hessians differ, and when somebody is to be told."""
