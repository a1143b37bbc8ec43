INSERT INTO client (id, owner) VALUES (%(id)s, %(owner)s)
ON CONFLICT (id) DO UPDATE SET owner = excluded.owner WHERE client.owner <> excluded.owner
RETURNING id, (xmax = 0) AS created
