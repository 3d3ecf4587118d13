"""The method inside other people's trainers: one trainer a file, each an optional extra."""
