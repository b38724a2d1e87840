-- Puts revocations into the log that may be missing there, and ends the sessions that went with them: KEYS meta, log;
-- ARGV[4] what names of session keys begin with, [5] of users', [6] of watermarks', [7] of token watermarks'; [8] max token
-- lifetime, [9] how long a watermark is kept; then five for each: position it had ('': unknown), '1' if the sessions were
-- kept, '2' if the order was given over other data, which may have had sessions that this data lacks, the session or user ('' for others), tag of the subject ('' for others), entry. Twice is once. Into a data set that
-- is lost it puts them all the same, unseen by anyone until `init.lua` makes it whole. An entry whose `expires_at` is 0 is kept for as long as a token can live. An order keeps its threshold, however
-- late it comes: it ends the sessions created until then, each with an entry of the session for the tokens issued since;
-- where sessions may be missing it kills all tokens that the user has by now, and sessions created since go on. Returns {1 if the data set is lost, records of a wrong type, and for each the position of what was
-- appended, '' if nothing was}.
local SESSIONS, USERS, WATERMARKS, TOKEN_WATERMARKS = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local LIFETIME, WATERMARK_TTL = tonumber(ARGV[8]), tonumber(ARGV[9])
expect_server()
local meta = look_at_meta()
local positions, odd = {}, 0
-- A half-built log must not be taken for the old one.
if not meta.epoch then redis.call('HDEL', META, 'epoch') end

local function is(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then odd = odd + 1 end
  return found == kind, found == 'none'
end

-- True if that very entry stands where it stood.
local function stands(position, entry)
  local there = position ~= '' and redis.call('XRANGE', LOG, position, position)[1]
  local bytes = there and there[2][2]
  return bytes and string.sub(bytes, 1, 1) == string.sub(entry, 1, 1) and string.sub(bytes, 6) == string.sub(entry, 6)
end

-- Into a lost data set nothing is published: no verifier could know its position.
local function put(entry)
  if meta.epoch then
    append(meta, entry)
    return meta.last
  end
  return redis.call('XADD', LOG, '*', 'r', entry)
end

local function put_again(position, entry)
  local alive = struct.unpack('>I4', entry, 2) > NOW
  positions[#positions + 1] = alive and not stands(position, entry) and put(entry) or ''
end

local function end_session(sid, user)
  local key = SESSIONS .. sid
  if not is(key, 'hash') then return end
  local sub = redis.call('HGET', key, 'sub')
  redis.call('DEL', key)
  local of = user or sub and USERS .. sub
  if of and is(of, 'zset') then redis.call('ZREM', of, sid) end
end

-- Ends a user's sessions that were created at or before `threshold`.
local function end_sessions(user, tag, threshold)
  if not is(user, 'zset') then return end
  for _, sid in ipairs(redis.call('ZRANGE', user, 0, -1)) do
    local key = SESSIONS .. sid
    if is(key, 'hash') then
      local row = redis.call('HMGET', key, 'created', 'exp_max')
      if (tonumber(row[1]) or 0) <= threshold then
        -- Always, and for as long as any token can live: a failover may have lost the rotation that gave the newest one.
        put(session_entry(tag, sid, math.max(tonumber(row[2]) or 0, NOW + LIFETIME) + MARGIN))
        end_session(sid, user)
      end
    end
  end
end

-- Raises a watermark; what it is not of, it leaves alone.
local function raise(key, threshold)
  local there, none = is(key, 'string')
  if none or there and threshold > (tonumber(redis.call('GET', key)) or 0) then
    redis.call('SET', key, threshold, 'EXAT', threshold + WATERMARK_TTL)
  end
end

local function redo(position, reach, name, tag, entry)
  local kept = reach == '1'
  local kind = string.byte(entry) % 8
  local threshold = (kind == 3 or kind == 4) and struct.unpack('>I4', entry, 6)
  local undelivered = struct.unpack('>I4', entry, 2) == 0
  if undelivered then
    entry = string.sub(entry, 1, 1) .. seconds((threshold or NOW) + LIFETIME + MARGIN) .. string.sub(entry, 6)
  end
  if threshold and threshold > NOW + THRESHOLD_AHEAD_MAX then
    odd = odd + 1
    positions[#positions + 1] = ''
    return
  end
  -- This data may lack sessions, and knows no `iat` of theirs: everything issued by now.
  local reached = threshold
  if not kept and threshold and (reach == '2' or undelivered and not meta.epoch) then
    reached = math.max(threshold, meta.peak, meta.floor, NOW)
  end
  if kind == 4 and (threshold > meta.all or reached > threshold) then
    -- It kills what was issued since, too: an order names no session, and those created later stay.
    reached = math.max(reached, meta.peak)
    meta.all, meta.all_tokens = math.max(meta.all, threshold), math.max(meta.all_tokens, reached)
    meta.peak = math.max(meta.peak, reached)
    redis.call('HSET', META, 'all', meta.all, 'all_tokens', meta.all_tokens, 'peak', meta.peak)
  end
  if threshold and reached > threshold then
    entry = string.sub(entry, 1, 1) .. seconds(reached + LIFETIME + MARGIN) .. seconds(reached) .. string.sub(entry, 10)
    if kind == 3 then raise(TOKEN_WATERMARKS .. name, reached) end
  end
  put_again(position, entry)
  if kind == 2 then end_session(name) end
  if kind ~= 3 then return end
  raise((kept and TOKEN_WATERMARKS or WATERMARKS) .. name, threshold)
  if reached > meta.peak then
    meta.peak = reached
    redis.call('HSET', META, 'peak', reached)
  end
  if not kept then end_sessions(USERS .. name, tag, threshold) end
end

for i = 10, #ARGV, 5 do redo(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]) end
return {meta.epoch and 0 or 1, odd, positions}
