-- Trades a refresh token: KEYS meta, log, session, user, watermark, token watermark; ARGV[4] sid, [5] sub, [6] generation
-- presented, [7] access_ttl, [8] idle_ttl, [9] retry window, [10] head byte and [11] tail of the session's entry, [12] '1'
-- to see what it is worth, and trade nothing. The rules are those of domain/session.rs, `decide`.
-- Returns {'traded'|'retried', generation, iat, milliseconds that is ahead}, {'current'}, {'refused', why} or {'reused',
-- generations old, seconds since the rotation, position of the entry}.
local SESSION, USER, WATERMARK, TOKEN_WATERMARK = KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local meta = load_meta()
expect(USER, 'zset')
if not expect(SESSION, 'hash') then return {'refused', 'gone'} end
local row = redis.call('HMGET', SESSION, 'v', 'sub', 'gen', 'rotated', 'issued', 'exp_max', 'idle', 'ends', 'created')
if row[1] ~= '1' then error({err = 'BADVERSION the session is of another version'}) end
if row[2] ~= ARGV[5] then return {'refused', 'gone'} end
local generation, rotated, issued, exp_max = tonumber(row[3]), tonumber(row[4]), tonumber(row[5]), tonumber(row[6])
local idle_ends, ends = tonumber(row[7]), tonumber(row[8])
local presented, window = tonumber(ARGV[6]), tonumber(ARGV[9])
local born, ended_up_to = birth(row[3], row[9], row[5]), session_mark(meta, WATERMARK)
local watermark = token_mark(meta, WATERMARK, TOKEN_WATERMARK)

local retry = presented == generation - 1 and window > 0 and NOW <= rotated + window
if presented < generation and not retry then
  append(meta, ARGV[10] .. seconds(exp_max + MARGIN) .. ARGV[11])
  redis.call('DEL', SESSION)
  redis.call('ZREM', USER, ARGV[4])
  return {'reused', generation - presented, NOW - rotated, meta.last}
end
if ended_up_to > 0 and born <= ended_up_to then return {'refused', 'revoked'} end
if NOW >= math.min(idle_ends, ends) then return {'refused', 'expired'} end
if ARGV[12] == '1' then return {'current'} end

local ahead_ms
issued, ahead_ms = issue_at(watermark)
exp_max = math.max(exp_max, issued + tonumber(ARGV[7]))
if not retry then
  -- A generation ahead of ours is authentic all the same: a failover lost the rotation that made it.
  generation, rotated, idle_ends = math.min(presented + 1, 4294967295), NOW, NOW + tonumber(ARGV[8])
end
local kept_until = math.max(math.min(idle_ends, ends), exp_max + MARGIN)
-- Should the clock ever go back, the record still names the latest token there is.
redis.call('HSET', SESSION, 'gen', string.format('%.0f', generation), 'refreshed', NOW, 'rotated', rotated,
  'issued', math.max(issued, tonumber(row[5])), 'exp_max', exp_max, 'idle', idle_ends)
redis.call('EXPIREAT', SESSION, kept_until)
file_session(USER, ARGV[4], kept_until)
note_issued(meta, issued)
return {retry and 'retried' or 'traded', generation, issued, ahead_ms}
