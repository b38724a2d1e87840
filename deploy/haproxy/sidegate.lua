-- Asks Sidegate about each request, over its Unix socket. In haproxy.cfg:
--   global:    lua-load-per-thread /etc/haproxy/sidegate.lua
--   frontend:  http-request lua.sidegate, and then the rules that read the three variables below (see haproxy.cfg).
-- Sets txn.sidegate_status (200, 401, 403; anything else is "cannot judge") and txn.sidegate_challenge, and on 200 the
-- identity headers of the request.

local socket = "unix@" .. (os.getenv("VERIFIER_SOCKET") or "/run/sidegate/verifier.sock")
local timeout_ms = 1000

-- What the verdict may depend on, and the trace that the request belongs to; nothing else of it leaves HAProxy.
local asked = { "authorization", "cookie", "origin", "host", "traceparent", "tracestate" }
-- Always the whole set, so that nothing a client made up survives.
local identity = {
  "x-auth-subject", "x-auth-session", "x-auth-token-id", "x-auth-client", "x-auth-scope", "x-auth-expires",
}

local function first(headers, name)
  local values = headers and headers[name]
  return values and (values[0] or values[1])
end

core.register_action("sidegate", { "http-req" }, function(txn)
  txn:set_var("txn.sidegate_status", 503)
  local sent = txn.http:req_get_headers()
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

  local answer = core.httpclient():head({
    url = "http://localhost/haproxy", dst = socket, headers = headers, timeout = timeout_ms,
  })
  if not answer or not answer.status then
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
  end
  txn:set_var("txn.sidegate_challenge", first(answer.headers, "www-authenticate") or "")
  txn:set_var("txn.sidegate_status", answer.status)
end, 0)
