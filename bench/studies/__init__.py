"""What the studies of policies share: how policies are declared, results stored, checked, tabled and drawn."""
