// better-auth with email and password, and its JWT plugin. Argument: the port.
import { randomBytes, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { betterAuth } from 'better-auth';
import { memoryAdapter } from 'better-auth/adapters/memory';
import { toNodeHandler } from 'better-auth/node';
import { jwt } from 'better-auth/plugins';

const port = Number(process.argv[2]);
const options = (mark) => ({
  baseURL: `http://127.0.0.1:${port}`,
  secret,
  database,
  emailAndPassword: { enabled: true },
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
  user: { additionalFields: { tenant: { type: 'string' } } },
  plugins: [
    jwt({
      jwt: {
        audience: 'orders-api',
        // Nothing in its tokens says that they are access tokens, names the session or the token, unless configured to.
        definePayload: ({ user, session }) => ({ ...mark, sid: session.id, jti: randomUUID(), tenant: user.tenant }),
      },
    }),
  ],
});
const secret = randomBytes(32).toString('hex');
const database = memoryAdapter({ user: [], session: [], account: [], verification: [], jwks: [] });
const marked = toNodeHandler(betterAuth(options({ typ: 'Bearer' })));
const unmarked = toNodeHandler(betterAuth(options({})));
createServer((request, response) => {
  const handle = request.headers['x-unmarked'] ? unmarked : marked;
  return handle(request, response);
}).listen(port, '127.0.0.1');
