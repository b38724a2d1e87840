// oidc-provider as its documentation sets it up for one API, with JWT access tokens. Arguments: the port.
import { Provider } from 'oidc-provider';

const port = Number(process.argv[2]);
const client = (name) => ({
  client_id: name,
  client_secret: `secret-of-${name}`,
  grant_types: ['authorization_code', 'client_credentials'],
  redirect_uris: ['https://app.example/callback'],
});
const api = { scope: 'read', audience: 'orders-api', accessTokenFormat: 'jwt', accessTokenTTL: 3600 };
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [client('shop'), client('till')],
  scopes: ['openid', 'read'],
  // Its access tokens name no session unless configured to.
  extraTokenClaims: (_, token) => (token.sessionUid ? { sid: token.sessionUid } : undefined),
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'https://orders.example',
      getResourceServerInfo: () => api,
      useGrantedResource: () => true,
    },
  },
});
provider.listen(port, '127.0.0.1');
