"""At which level the policies are compared: one importance ratio a file."""
