-- Puts revocations into the log that may be missing there, and ends the sessions that went with them: KEYS meta, log;
-- ARGV[4] what names of session keys begin with, [5] of users', [6] of watermarks'; [7] max token lifetime, [8] how long a
-- watermark is kept; then four for each: position it had ('': unknown), '1' if its threshold was only estimated, the
-- session or user ('' for others), entry. Twice is once. Into a data set that is lost it puts them all the same, unseen
-- by anyone until `init.lua` makes it whole. Returns {1 if the data set is lost, records of a wrong type, and for each the
-- position of what was appended, '' if nothing was}.
local SESSIONS, USERS, WATERMARKS = ARGV[4], ARGV[5], ARGV[6]
local LIFETIME, WATERMARK_TTL = tonumber(ARGV[7]), tonumber(ARGV[8])
local meta = look_at_meta()
local positions, odd = {}, 0
-- Nobody may take a half-built log for the old one.
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

local function put(position, entry)
  local id = ''
  if struct.unpack('>I4', entry, 2) > NOW and not stands(position, entry) then
    if meta.epoch then
      append(meta, entry)
      id = meta.last
    else
      id = redis.call('XADD', LOG, '*', 'r', entry)
    end
  end
  positions[#positions + 1] = id
end

local function end_session(sid, user, up_to)
  local key = SESSIONS .. sid
  if not is(key, 'hash') then return end
  local row = redis.call('HMGET', key, 'sub', 'issued')
  if up_to and (tonumber(row[2]) or 0) > up_to then return end
  redis.call('DEL', key)
  local of = user or row[1] and USERS .. row[1]
  if of and is(of, 'zset') then redis.call('ZREM', of, sid) end
end

-- An entry with its threshold; one that was only estimated is raised over the watermark that has been set meanwhile.
local function with_threshold(entry, estimated, watermark)
  local threshold = struct.unpack('>I4', entry, 6)
  if not estimated or threshold > watermark then return threshold, entry end
  threshold = watermark + 1
  local expires_at = seconds(threshold + LIFETIME + MARGIN)
  return threshold, string.sub(entry, 1, 1) .. expires_at .. seconds(threshold) .. string.sub(entry, 10)
end

for i = 9, #ARGV, 4 do
  local position, estimated, name, entry = ARGV[i], ARGV[i + 1] == '1', ARGV[i + 2], ARGV[i + 3]
  local kind = string.byte(entry) % 8
  if kind == 2 then
    put(position, entry)
    end_session(name)
  elseif kind == 3 then
    local there, none = is(WATERMARKS .. name, 'string')
    local watermark = there and tonumber(redis.call('GET', WATERMARKS .. name)) or 0
    local threshold
    threshold, entry = with_threshold(entry, estimated, watermark)
    put(position, entry)
    if (there or none) and threshold > watermark then
      redis.call('SET', WATERMARKS .. name, threshold, 'EXAT', threshold + WATERMARK_TTL)
    end
    if threshold > meta.peak then
      meta.peak = threshold
      redis.call('HSET', META, 'peak', threshold)
    end
    if is(USERS .. name, 'zset') then
      for _, sid in ipairs(redis.call('ZRANGE', USERS .. name, 0, -1)) do end_session(sid, USERS .. name, threshold) end
    end
  elseif kind == 4 then
    local threshold
    -- Not over `peak`: that names tokens issued since the order was given, too.
    threshold, entry = with_threshold(entry, estimated, meta.all)
    put(position, entry)
    meta.all, meta.peak = math.max(meta.all, threshold), math.max(meta.peak, threshold)
    redis.call('HSET', META, 'all', meta.all, 'peak', meta.peak)
  else
    put(position, entry)
  end
end
return {meta.epoch and 0 or 1, odd, positions}
