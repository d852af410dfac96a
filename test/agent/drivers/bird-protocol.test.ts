import t from 'tap'
import {
  failed,
  failureText,
  parseProtocols,
  parseStatus,
  type Reply,
  ReplyReader,
  replyLineCharsMax,
  RouteReader,
} from '../../../agent/drivers/bird-protocol.ts'

// Captured from BIRD 2.0.12.
const STATUS = `0001 BIRD 2.0.12 ready.
1000-BIRD 2.0.12
1011-Router ID is 10.9.0.1
 Hostname is vm
 Current server time is 2026-11-22 00:20:18.651
0013 Daemon is up and running
`
const PROTOCOLS = `2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     00:20:12.650  
1006-
1002-kernel1    Kernel     master4    up     00:20:12.650  
1006-  Channel ipv4
         State:          UP
         Output filter:  (unnamed)
         Routes:         0 imported, 3 exported, 0 preferred
           Import updates:              0          0          0          0          0
     
1002-bgp_peer   BGP        ---        up     00:20:13.411  Established   
1006-  BGP state:          Established
         Neighbor address: 10.9.0.2
         Neighbor AS:      65002
         Local AS:         65001
         Neighbor ID:      10.9.0.2
       Channel ipv4
         Routes:         1 imported, 0 filtered, 2 exported, 1 preferred
         BGP Next hop:   10.9.0.1
     
1002-bgp_gone   BGP        ---        start  00:20:13.411  Active        Socket: Connection refused
1006-  BGP state:          Active
         Neighbor address: 10.9.0.3
         Neighbor AS:      4294967295
         Last error:       Socket: Connection refused
       Channel ipv4
         State:          DOWN
     
0000 
`
const ROUTES = `1007-Table master4:
 192.0.2.2/32         unicast [bgp_peer 00:20:13.976] * (100) [AS65002i]
 	via 10.9.0.2 on eth0
                      unicast [bgp_other 00:20:14.000 from 10.9.0.5] (100) [AS65003i]
 	via 10.9.0.5 on eth0
 10.9.0.0/24          unicast [direct1 00:20:12.652] * (240)
 	dev eth0
 192.0.2.1/32         blackhole [offbox_static 00:20:12.650] * (200)
0000 
`

/** The last reply in `wire`, read in pieces of `size` bytes as a socket might. */
function read(wire: string, size: number): Reply {
  const reader = new ReplyReader()
  const bytes = new TextEncoder().encode(wire)
  const lines = []
  for (let at = 0; at < bytes.length; at += size) lines.push(...reader.push(bytes.subarray(at, at + size)))
  return { code: lines.at(-1)?.code ?? -1, lines }
}

for (const size of [1, 7, 100_000]) {
  t.test(`a reply is the same in pieces of ${size} bytes`, async (t) => {
    t.same(parseStatus(read(STATUS, size)), { version: '2.0.12', routerId: '10.9.0.1' })
    t.equal(read(STATUS, size).code, 13)
    t.same(
      parseProtocols(read(PROTOCOLS, size)).map(({ name }) => name),
      ['device1', 'kernel1', 'bgp_peer', 'bgp_gone'],
    )
  })
}

t.test('protocols carry state, neighbour and route counts', async (t) => {
  const [device, kernel, up, down] = parseProtocols(read(PROTOCOLS, 4096))
  t.match(device, { type: 'Device', state: 'up', since: '00:20:12.650', info: '', neighborAs: 0, routesImported: 0 })
  t.match(kernel, { type: 'Kernel', routesExported: 3 })
  t.match(up, { type: 'BGP', info: 'Established', neighborAddress: '10.9.0.2', neighborAs: 65_002, routesImported: 1, routesExported: 2 })
  t.match(down, { type: 'BGP', state: 'start', info: 'Active', neighborAddress: '10.9.0.3', neighborAs: 4_294_967_295, routesImported: 0 })
})

t.test('routes carry next hop, origin and whether they are used', async (t) => {
  const reader = new RouteReader()
  for (const line of read(ROUTES, 4096).lines) reader.line(line)
  t.same(reader.routes, [
    { prefix: '192.0.2.2/32', via: '10.9.0.2', protocol: 'bgp_peer', best: true },
    { prefix: '192.0.2.2/32', via: '10.9.0.5', protocol: 'bgp_other', best: false },
    { prefix: '10.9.0.0/24', via: '', protocol: 'direct1', best: true },
    { prefix: '192.0.2.1/32', via: '', protocol: 'offbox_static', best: true },
  ])
})

t.test('a failed reply is known by its code and told in its own words', async (t) => {
  const reply = read('0002-Reading configuration from /run/x.conf\n8002 /run/x.conf:12:67 syntax error, unexpected CF_SYM_UNDEFINED\n', 4096)
  t.ok(failed(reply))
  t.equal(failureText(reply), '/run/x.conf:12:67 syntax error, unexpected CF_SYM_UNDEFINED')
  t.notOk(failed(read('0019 Nothing to do\n', 4096)))
})

t.test('what is no reply of BIRD is refused, and so is a line without an end', async (t) => {
  t.throws(() => new ReplyReader().push(new TextEncoder().encode('HTTP/1.1 400 Bad Request\n')), /not a BIRD reply/)
  t.throws(() => new ReplyReader().push(new Uint8Array(replyLineCharsMax + 1).fill(0x61)), /more than/)
  t.same(new ReplyReader().push(new TextEncoder().encode('+echoed log line\n')), [])
})
