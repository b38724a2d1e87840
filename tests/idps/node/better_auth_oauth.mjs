// better-auth as an authorization server, with its OAuth provider. Argument: the port. GET /clients tells the clients' credentials.
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { oauthProvider } from '@better-auth/oauth-provider';
import { betterAuth } from 'better-auth';
import { memoryAdapter } from 'better-auth/adapters/memory';
import { toNodeHandler } from 'better-auth/node';
import { jwt } from 'better-auth/plugins';

const port = Number(process.argv[2]);
const api = 'https://orders.example';
const tables = ['user', 'session', 'account', 'verification', 'jwks'];
const oauthTables = ['Client', 'Resource', 'ClientResource', 'AccessToken', 'RefreshToken', 'Consent'];
const auth = betterAuth({
  baseURL: `http://127.0.0.1:${port}`,
  secret: randomBytes(32).toString('hex'),
  database: memoryAdapter(Object.fromEntries([...tables, ...oauthTables.map((name) => `oauth${name}`)].map((name) => [name, []]))),
  emailAndPassword: { enabled: true },
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
  plugins: [
    jwt(),
    oauthProvider({
      loginPage: '/login',
      consentPage: '/consent',
      scopes: ['openid', 'read'],
      resources: [api],
      clientPrivileges: () => true,
      resourcePrivileges: () => true,
    }),
  ],
});

const admin = { email: 'admin@corp.example', name: 'admin', password: randomBytes(12).toString('hex') };
const { headers: sent } = await auth.api.signUpEmail({ body: admin, returnHeaders: true });
const headers = new Headers({ cookie: sent.getSetCookie().map((line) => line.split(';')[0]).join('; ') });
const clients = {};
for (const name of ['shop', 'till']) {
  const body = {
    client_name: name,
    redirect_uris: ['https://app.example/callback'],
    skip_consent: true,
    scope: 'openid read',
    grant_types: ['authorization_code', 'client_credentials'],
    client_credentials_scopes: ['read'],
  };
  const made = await auth.api.adminCreateOAuthClient({ headers, body });
  await auth.api.adminLinkClientResource({ headers, params: { identifier: api, client_id: made.client_id } });
  clients[name] = { id: made.client_id, secret: made.client_secret };
}
const handle = toNodeHandler(auth);
createServer((request, response) => {
  if (request.url === '/clients') response.end(JSON.stringify(clients));
  else handle(request, response);
}).listen(port, '127.0.0.1');
