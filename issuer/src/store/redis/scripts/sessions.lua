-- A user's live sessions: KEYS meta, log, user; ARGV[4] what the names of session keys begin with. Reads only.
-- Returns {sid, {field, value, ...}} pairs in one flat list.
local USER = KEYS[3]
local meta = load_meta()
expect(USER, 'zset')
local out = {}
for _, sid in ipairs(redis.call('ZRANGE', USER, 0, -1)) do
  local key = ARGV[4] .. sid
  if expect(key, 'hash') then
    local row = redis.call('HMGET', key, 'v', 'sub', 'gen', 'created', 'refreshed', 'rotated', 'issued', 'exp_max',
      'idle', 'ends', 'addr', 'agent')
    local live = row[9] and row[10] and NOW < math.min(tonumber(row[9]), tonumber(row[10]))
    if live and tonumber(row[7]) > meta.all then
      out[#out + 1] = sid
      out[#out + 1] = row
    end
  end
end
return out
