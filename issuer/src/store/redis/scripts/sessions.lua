-- A page of a user's live sessions, most recently used first: KEYS meta, log, user, watermark; ARGV[4] what the names of
-- session keys begin with, [5] how many, [6] score and [7] sid behind which the page begins ('': at the start). Reads only.
-- Returns {score and sid of the last one if there are more, else '' and ''; sid, {field, value, ...} pairs in one flat list}.
local USER, WATERMARK = KEYS[3], KEYS[4]
local STEP = 100
local meta = load_meta()
expect(USER, 'zset')
local limit, ended_up_to = tonumber(ARGV[5]), session_mark(meta, WATERMARK)

local function first_rank()
  if ARGV[6] == '' then return 0 end
  if redis.call('ZSCORE', USER, ARGV[7]) == ARGV[6] then return redis.call('ZREVRANK', USER, ARGV[7]) + 1 end
  -- It has ended or was used since: some may be seen twice, none is left out.
  return redis.call('ZCOUNT', USER, '(' .. ARGV[6], '+inf')
end

local function live(sid)
  local key = ARGV[4] .. sid
  if not expect(key, 'hash') then return nil end
  local row = redis.call('HMGET', key, 'v', 'sub', 'gen', 'created', 'refreshed', 'rotated', 'issued', 'exp_max', 'idle',
    'ends', 'addr', 'agent')
  local goes_on = row[9] and row[10] and NOW < math.min(tonumber(row[9]), tonumber(row[10]))
  return goes_on and birth(row[3], row[4], row[7]) > ended_up_to and row
end

local out, score, sid, rank = {}, '', '', first_rank()
while true do
  local ranked = redis.call('ZREVRANGE', USER, rank, rank + STEP - 1, 'WITHSCORES')
  for i = 1, #ranked, 2 do
    local row = live(ranked[i])
    if row and #out == 2 * limit then return {score, sid, out} end
    if row then
      sid, score = ranked[i], ranked[i + 1]
      out[#out + 1] = sid
      out[#out + 1] = row
    end
  end
  if #ranked < 2 * STEP then return {'', '', out} end
  rank = rank + STEP
end
