"""Which id may have a row, and which id loses it. Decides, never touches a row itself."""
