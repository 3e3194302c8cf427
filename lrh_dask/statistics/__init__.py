"""What the states tell, and how well: rank, errors, certificates, the Hessian itself."""
