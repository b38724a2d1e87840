-- The heartbeat of an issuer: lists it, counts, and settles the log once every listed issuer has put back what it holds.
-- KEYS meta, log; ARGV[4] partitions, [5] the issuer's count of beats, [6] epoch and [7] replication id of the log into
-- which it last put everything back, [8] milliseconds that a data set made anew stays unsettled, [9] `leave` if it wants to
-- be taken off the list, [10] the newest `iat` that it has handed out; then two for each issuer that has stopped: its name, and its row as it was seen.
-- A row of `issuers` is `REPLID SP COUNT`, with `-` for an issuer that has not put back anything into this data set.
-- Returns {epoch, '' if the data set is lost; position of the newest entry; since; the server's seconds; its replication
-- id; 1 if the log is settled; 1 if the issuer was not on the list; replicas connected; names and rows of all issuers}.
local meta = look_at_meta()
expect(ISSUERS, 'hash')
local partitions = redis.call('HGET', META, 'partitions')
if partitions and partitions ~= ARGV[4] then return redis.error_reply('PARTITIONS ' .. partitions) end

local replication = redis.call('INFO', 'replication')
local replid = string.match(replication, 'master_replid:(%x+)') or ''
local replicas = tonumber(string.match(replication, 'connected_slaves:(%d+)')) or 0
local marked = meta.epoch and ARGV[6] == meta.epoch and ARGV[7] == replid
if marked then raise_floor(meta, tonumber(ARGV[10])) end
for i = 11, #ARGV, 2 do
  if redis.call('HGET', ISSUERS, ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', ISSUERS, ARGV[i]) end
end
local new = 0
-- One that has not put everything back stays on the list: the others wait for it, as long as they wait for anyone.
if ARGV[9] == 'leave' and marked then
  redis.call('HDEL', ISSUERS, ISSUER)
else
  new = redis.call('HSET', ISSUERS, ISSUER, (marked and replid or '-') .. ' ' .. ARGV[5])
end

local rows = redis.call('HGETALL', ISSUERS)
local here = meta.epoch and meta.epoch .. ' ' .. replid
if meta.epoch and meta.settled ~= here then
  local everyone = true
  for i = 2, #rows, 2 do everyone = everyone and string.match(rows[i], '^%S+') == replid end
  -- In a data set made anew the list has to fill again first. A clock that was put back does not make it wait longer.
  local age = meta.made and NOW_MS - meta.made or math.huge
  if age < 0 then
    age = 0
    redis.call('HSET', META, 'made', string.format('%.0f', NOW_MS))
  end
  if everyone and age >= tonumber(ARGV[8]) then
    redis.call('HSET', META, 'settled', here)
    meta.settled = here
  end
end
return {meta.epoch or '', meta.newest, meta.since, NOW, replid, here and meta.settled == here and 1 or 0, new, replicas,
  rows}
