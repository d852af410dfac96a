import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { screenText } from '../../../agent/drivers/bird-text.ts'
import { RoutingConfig, type RoutingConfigInit } from '../../../proto/gen/routing.ts'
import { render, ROUTING_LIMITS } from '../../../services/routing/render.ts'

const config: RoutingConfigInit = {
  routerId: '10.77.0.11',
  localAs: 65_001,
  neighbors: [
    { name: 'sw3', address: '10.77.0.13', peerAs: 65_003, holdTimeS: 30, importLimit: 500 },
    { name: 'sw2', address: '10.77.0.12', peerAs: 4_200_000_000 },
  ],
  staticRoutes: [
    { prefix: '198.51.100.0/24', via: '10.77.0.12' },
    { prefix: '9.0.0.0/8', blackhole: true },
  ],
}
const of = (init: RoutingConfigInit) => render(RoutingConfig.decode(RoutingConfig.encode(init)))
const neighbor = { name: 'sw2', address: '10.77.0.12', peerAs: 65_002 }

t.test('a configuration renders to this text, and to nothing else', async (t) => {
  t.equal(of(config), readFileSync(join(import.meta.dirname, '../../fixtures/services/routing.conf'), 'utf8'))
})

t.test('the order of neighbours and routes changes nothing', async (t) => {
  t.equal(of({ ...config, neighbors: config.neighbors?.toReversed() ?? [], staticRoutes: config.staticRoutes?.toReversed() ?? [] }), of(config))
})

t.test('the driver takes whatever the renderer makes', async (t) => {
  t.doesNotThrow(() => screenText(of(config)))
  t.doesNotThrow(() => screenText(of({ routerId: '1.1.1.1', localAs: 1, neighbors: [{ ...neighbor, name: 'log' }] })))
})

const bad: Record<string, [RoutingConfigInit, RegExp]> = {
  'a router id that is not dotted': [{ ...config, routerId: '1' }, /router_id/],
  'a router id with leading zeros': [{ ...config, routerId: '010.0.0.1' }, /router_id/],
  'router id 0.0.0.0': [{ ...config, routerId: '0.0.0.0' }, /router_id/],
  'a router id with more behind it': [{ ...config, routerId: '1.1.1.1;\ninclude "/etc/shadow";#' }, /router_id/],
  'AS 0': [{ ...config, localAs: 0 }, /local_as/],
  'neighbour AS 0': [{ ...config, neighbors: [{ ...neighbor, peerAs: 0 }] }, /neighbors\[0\]\.peer_as/],
  'a name that closes its block': [{ ...config, neighbors: [{ ...neighbor, name: 'x { } protocol' }] }, /neighbors\[0\]\.name/],
  'a name with a line feed': [{ ...config, neighbors: [{ ...neighbor, name: 'x\n' }] }, /neighbors\[0\]\.name/],
  'an empty name': [{ ...config, neighbors: [{ ...neighbor, name: '' }] }, /neighbors\[0\]\.name/],
  'a name used twice': [{ ...config, neighbors: [neighbor, { ...neighbor, address: '10.77.0.13' }] }, /neighbors\[1\]\.name/],
  'an address used twice': [{ ...config, neighbors: [neighbor, { ...neighbor, name: 'other' }] }, /neighbors\[1\]\.address/],
  'a multicast neighbour': [{ ...config, neighbors: [{ ...neighbor, address: '224.0.0.1' }] }, /neighbors\[0\]\.address/],
  'an address with a command behind it': [{ ...config, neighbors: [{ ...neighbor, address: '10.77.0.12 as 1; #' }] }, /neighbors\[0\]\.address/],
  'a hold time of 2 s': [{ ...config, neighbors: [{ ...neighbor, holdTimeS: 2 }] }, /hold_time_s/],
  'an import limit of 0': [{ ...config, neighbors: [{ ...neighbor, importLimit: 0 }] }, /import_limit/],
  'a prefix with host bits': [{ ...config, staticRoutes: [{ prefix: '10.0.0.1/24', blackhole: true }] }, /static_routes\[0\]\.prefix/],
  'a prefix of 33 bits': [{ ...config, staticRoutes: [{ prefix: '10.0.0.0/33', blackhole: true }] }, /static_routes\[0\]\.prefix/],
  'a prefix without length': [{ ...config, staticRoutes: [{ prefix: '10.0.0.0', blackhole: true }] }, /static_routes\[0\]\.prefix/],
  'a prefix with more behind it': [{ ...config, staticRoutes: [{ prefix: '10.0.0.0/8 blackhole; #', blackhole: true }] }, /static_routes\[0\]\.prefix/],
  'a prefix used twice': [
    {
      ...config,
      staticRoutes: [
        { prefix: '10.0.0.0/8', blackhole: true },
        { prefix: '10.0.0.0/8', via: '10.77.0.1' },
      ],
    },
    /static_routes\[1\]/,
  ],
  'a route without target': [{ ...config, staticRoutes: [{ prefix: '10.0.0.0/8' }] }, /static_routes\[0\]/],
  'a route with blackhole: false': [{ ...config, staticRoutes: [{ prefix: '10.0.0.0/8', blackhole: false }] }, /static_routes\[0\]/],
  'a next hop that is a name': [{ ...config, staticRoutes: [{ prefix: '10.0.0.0/8', via: 'gateway' }] }, /static_routes\[0\]\.via/],
  'a next hop with more behind it': [{ ...config, staticRoutes: [{ prefix: '10.0.0.0/8', via: '10.0.0.1; }\nlog "/x" all;' }] }, /static_routes\[0\]\.via/],
  'too many neighbours': [{ ...config, neighbors: new Array(ROUTING_LIMITS.neighborsMax + 1).fill(neighbor) }, /neighbors/],
}
for (const [what, [init, message]] of Object.entries(bad)) {
  t.test(`${what} is refused, the field named`, async (t) => {
    t.throws(() => of(init), { code: 'CONFIG_INVALID', message })
  })
}

t.test('the default route and every length of prefix pass', async (t) => {
  for (let length = 0; length <= 32; length += 1) {
    const prefix = length === 0 ? '0.0.0.0/0' : `128.0.0.0/${length}`
    t.match(of({ ...config, staticRoutes: [{ prefix, blackhole: true }] }), `route ${prefix} blackhole;`)
  }
})

t.test('100,000 static routes render in one go', async (t) => {
  const staticRoutes = Array.from({ length: ROUTING_LIMITS.staticRoutesMax }, (_, index) => ({
    prefix: `${10 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}.0/24`,
    blackhole: true,
  }))
  const text = of({ ...config, staticRoutes })
  t.equal(text.match(/route .* blackhole;/g)?.length, ROUTING_LIMITS.staticRoutesMax)
  t.doesNotThrow(() => screenText(text))
})
