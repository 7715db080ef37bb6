"""Virtual keys, teams, users, roles, JWT, and the admin API of gwcore."""
