import { once } from 'node:events'
import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import t from 'tap'
import { parseSockets, readListeners } from '../../../agent/api/listeners.ts'

const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00004D:247B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0
   1: 0100007F:0016 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 20 4 30 10 -1
`

t.test('listening sockets are told from connected ones, with address and port as people write them', async (t) => {
  t.same(parseSockets(table, 'tcp'), [{ protocol: 'tcp', address: '77.0.0.11', port: 9339, inode: '111' }])
  const six = table.replace('0B00004D', '00000000000000000000000001000000')
  t.match(parseSockets(six, 'tcp'), [{ address: '::1' }])
  const any = table.replace('0B00004D', '00000000000000000000000000000000')
  t.match(parseSockets(any, 'tcp'), [{ address: '::' }])
  t.same(parseSockets('', 'tcp'), [])
})

t.test('what this process listens on is found under its name', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  const datagrams = createSocket('udp4').bind(0, '127.0.0.1')
  await Promise.all([once(server, 'listening'), once(datagrams, 'listening')])
  const { port } = server.address() as { port: number }
  const found = await readListeners()
  t.match(
    found.filter((one) => one.protocol === 'tcp' && one.port === port),
    [{ address: '127.0.0.1', process: /./ }],
  )
  t.equal(found.filter((one) => one.protocol === 'udp' && one.port === datagrams.address().port).length, 1)
  server.close()
  datagrams.close()
})
