SELECT name, value FROM param
