//! Secrets of 32 bytes and more in documentation, examples and tutorials, which end up in
//! production.

/// As published; compared case-insensitively.
pub const PUBLISHED: &[&str] = &[
    // jwt.io, the examples for HS256, HS384 and HS512.
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-384-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    // Supabase: .env.example for self-hosting (JWT_SECRET, SECRET_KEY_BASE, VAULT_ENC_KEY), and the command line's default.
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "UpNVntn3cDxHJpq99YMc1T1AQgQpc8kfYTuRgBiYa15BLrx8etQoXz3gZv1/u2oq",
    "your-encryption-key-32-chars-min",
    // Hasura's documentation and example projects.
    "3EK6FD+o0+c7tzBNVfjpMkNDi2yARAAKzQlk8O2IKoxQu4nF7EdAh8s3TwpHwrdWT6R",
    "this-is-a-generic-HS256-secret-key-and-you-should-really-change-it",
    // Tutorials for Spring Security.
    "======================BezKoder=Spring===========================",
    "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970",
    "3cfa76ef14937c1c0ea519f8fc057a80fcd04a7420f8e8bcd0a7567c272e007b",
    "daf66e01593f61a15b857cf433aae03a005812b31234e149036bcc8dee755dbb",
    "586E3272357538782F413F4428472B4B6250655368566B597033733676397924",
    "5367566B59703373367639792F423F4528482B4D6251655468576D5A71347437",
    "413F4428472B4B6250655368566D5970337336763979244226452948404D6351",
    // FastAPI's tutorial.
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    // Tutorials for ASP.NET Core and Node.
    "THIS IS USED TO SIGN AND VERIFY JWT TOKENS, REPLACE IT WITH YOUR OWN SECRET, IT CAN BE ANY STRING",
    "this is my custom Secret key for authentication",
    // PostgREST's tutorial.
    "reallyreallyreallyreallyverysafe",
    // RFC 7515 A.1 and RFC 7520 3.5.
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
];
