"""What is measured beside Clearlane. Runs in the peers' own environment, without the product."""
