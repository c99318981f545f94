-- The whole map in one statement, so that it is of one moment: the cluster, then its instances and homes as arrays,
-- which is one row to send however many shards there are. Without a row, or with a signpost, it is elsewhere.
SELECT c.cluster::text, c.catalog_version, c.ready, c.shards, c.epoch_ms, c.shard_bits, c.sequence_bits,
       c.map_version, i.names, i.dsns, i.states, i.generations, h.instances, h.epochs,
       to_regclass('howdah.signpost') IS NOT NULL AS has_signpost
FROM howdah.cluster c,
     (SELECT array_agg(name ORDER BY name) AS names, array_agg(dsn ORDER BY name) AS dsns,
             array_agg(state ORDER BY name) AS states, array_agg(generation ORDER BY name) AS generations
      FROM howdah.instance) i,
     (SELECT array_agg(instance ORDER BY shard) AS instances, array_agg(epoch ORDER BY shard) AS epochs
      FROM howdah.home) h
