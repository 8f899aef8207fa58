"""What `monitor check` looks at: the installation (`place`) and each account (`merchant`)."""
