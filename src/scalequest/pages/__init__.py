"""What people look at: report pages, cards, and text of others that must not be read as markup."""
