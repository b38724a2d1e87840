-- Asks Sidegate about each request, over its Unix socket. In haproxy.cfg:
--   global:    lua-load-per-thread /etc/haproxy/sidegate.lua
--   frontend:  http-request lua.sidegate, and then the rules that read the three variables below (see haproxy.cfg).
-- Sets txn.sidegate_status (200, 401, 403; anything else: the token could not be checked), txn.sidegate_challenge and
-- txn.sidegate_problem (the body of a refusal), and on 200 the identity headers of the request.

local socket = "unix@" .. (os.getenv("VERIFIER_SOCKET") or "/run/sidegate/verifier.sock")
local timeout_ms = 1000

-- What the verdict may depend on, and the trace that the request belongs to; nothing else of it leaves HAProxy.
local asked = { "authorization", "cookie", "origin", "host", "traceparent", "tracestate" }
-- Always the whole set, so that nothing a client made up survives.
local identity = {
  "x-auth-subject", "x-auth-session", "x-auth-token-id", "x-auth-client", "x-auth-scope", "x-auth-expires", "x-auth-issuer",
}
local unavailable = '{"type":"urn:sidegate:error:temporarily_unavailable","title":"The service cannot answer right now",'
  .. '"status":503,"detail":"the verifier did not answer","error":"temporarily_unavailable",'
  .. '"error_description":"the verifier did not answer","code":"temporarily_unavailable"}'

-- The letters and digits of a header's name: X!Auth!Subject is X-Auth-Subject to an application of the CGI kind.
local function letters(name)
  return (name:lower():gsub("[^%w]", ""))
end

local ours = { [letters("x-auth-stale")] = true }
for _, name in ipairs(identity) do
  ours[letters(name)] = true
end

local function first(headers, name)
  local values = headers and headers[name]
  return values and (values[0] or values[1])
end

core.register_action("sidegate", { "http-req" }, function(txn)
  txn:set_var("txn.sidegate_status", 503)
  txn:set_var("txn.sidegate_problem", unavailable)
  local sent = txn.http:req_get_headers()
  for name in pairs(sent) do
    if ours[letters(name)] then
      txn.http:req_del_header(name)
    end
  end
  local headers = {
    ["x-original-uri"] = { txn.sf:pathq() },
    ["x-original-method"] = { txn.sf:method() },
  }
  for _, name in ipairs(asked) do
    if sent[name] then
      local values = {}
      for _, value in pairs(sent[name]) do
        values[#values + 1] = value
      end
      headers[name] = values
    end
  end

  local answer = core.httpclient():get({
    url = "http://localhost/haproxy", dst = socket, headers = headers, timeout = timeout_ms,
  })
  -- HAProxy answers 503 or 504 in the verifier's place.
  if not answer or first(answer.headers, "cache-control") ~= "no-store" then
    return
  end
  if answer.status == 200 then
    for _, name in ipairs(identity) do
      local value = first(answer.headers, name)
      if not value then
        return
      end
      txn.http:req_set_header(name, value)
    end
  elseif first(answer.headers, "content-type") == "application/problem+json" then
    txn:set_var("txn.sidegate_problem", answer.body)
  end
  txn:set_var("txn.sidegate_challenge", first(answer.headers, "www-authenticate") or "")
  txn:set_var("txn.sidegate_status", answer.status)
end, 0)
