-- The application's own table, with one user: demo@example.org, "demo password".
CREATE TABLE users (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  email text NOT NULL UNIQUE,
  password_hash text NOT NULL
);
CREATE INDEX users_email_lower ON users (lower(email));
INSERT INTO users (email, password_hash)
VALUES ('demo@example.org', '$2b$12$/rgI7opLoQKDuJ5OWq7JB.xMHSWZYAsmE4xtTOMz0L/LbXiYQ6Qf2');
