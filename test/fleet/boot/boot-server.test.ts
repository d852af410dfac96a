import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { bootScript } from '../../../fleet/boot/boot-script.ts'
import { serveBoot, type BootServer } from '../../../fleet/boot/boot-server.ts'
import { parseRange } from '../../../fleet/boot/range.ts'

const INITRD = Buffer.alloc(48 * 1024 * 1024, 'initrd.') // more than two sockets buffer
const controller = '10.77.0.1:9341'
const logged: Record<string, unknown>[] = []
let imageDir: string
let server: BootServer
let base: string

t.before(async () => {
  imageDir = await mkdtemp(join(tmpdir(), 'offbox-boot-'))
  await writeFile(join(imageDir, 'vmlinuz'), 'kernel')
  await writeFile(join(imageDir, 'initrd.img'), INITRD)
  await writeFile(join(imageDir, 'secret.key'), 'secret')
  server = await serveBoot({ imageDir, host: '127.0.0.1', port: 0, controller, log: (message, fields) => logged.push({ message, ...fields }) })
  base = server.url.replace('/boot.ipxe', '')
})

t.teardown(async () => {
  await server.close()
  await rm(imageDir, { recursive: true, force: true })
})

t.test('the script loads kernel and initramfs and hands the lease to the agent', async (t) => {
  const response = await fetch(server.url)
  const script = await response.text()
  t.equal(response.status, 200)
  t.match(script, /^#!ipxe\n/)
  // biome-ignore lint/suspicious/noTemplateCurlyInString: variables of iPXE
  for (const word of ['ip=${netX/ip}', 'mask=${netX/netmask}', 'gateway=${netX/gateway}', 'mac=${netX/mac}', 'serial=${serial}', `controller=${controller}`]) {
    t.ok(script.includes(` offbox.${word}`), word)
  }
  t.match(script, /\ninitrd initrd\.img/)
})

t.test('a controller address that would change the script is refused', async (t) => {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: variables of iPXE
  for (const bad of ['10.0.0.1', '10.0.0.1:1 init=/x', '10.0.0.1:1\nshell', '${cwduri}:1', '']) {
    t.throws(() => bootScript({ controller: bad }), { code: 'ARGUMENT_INVALID' }, bad)
  }
  t.match(bootScript({ controller: '[fd00::1]:9341' }), /controller=\[fd00::1\]:9341/)
})

t.test('a file comes whole, with its length', async (t) => {
  const response = await fetch(`${base}/initrd.img`)
  t.equal(response.headers.get('content-length'), String(INITRD.length))
  t.ok(Buffer.from(await response.arrayBuffer()).equals(INITRD))
})

t.test('HEAD answers with the length and no body', async (t) => {
  for (const name of ['boot.ipxe', 'vmlinuz', 'initrd.img']) {
    const [head, get] = await Promise.all([fetch(`${base}/${name}`, { method: 'HEAD' }), fetch(`${base}/${name}`)])
    t.equal(head.status, 200)
    t.equal(head.headers.get('content-length'), get.headers.get('content-length'), name)
    t.equal((await head.arrayBuffer()).byteLength, 0)
    await get.arrayBuffer()
  }
})

t.test('a range comes as asked for, one behind the end is refused', async (t) => {
  const part = await fetch(`${base}/initrd.img`, { headers: { range: 'bytes=1000000-1999999' } })
  t.equal(part.status, 206)
  t.equal(part.headers.get('content-range'), `bytes 1000000-1999999/${INITRD.length}`)
  t.ok(Buffer.from(await part.arrayBuffer()).equals(INITRD.subarray(1_000_000, 2_000_000)))
  const behind = await fetch(`${base}/vmlinuz`, { headers: { range: 'bytes=6-' } })
  t.equal(behind.status, 416)
  t.equal(behind.headers.get('content-range'), 'bytes */6')
})

t.test('ranges are read as RFC 9110 says', async (t) => {
  t.same(parseRange('bytes=0-0', 10), { first: 0, last: 0 })
  t.same(parseRange('bytes=5-', 10), { first: 5, last: 9 })
  t.same(parseRange('bytes=5-99', 10), { first: 5, last: 9 })
  t.same(parseRange('bytes=-3', 10), { first: 7, last: 9 })
  t.same(parseRange('bytes=-99', 10), { first: 0, last: 9 })
  for (const whole of [undefined, 'bytes=-', 'bytes=3-1', 'bytes=0-1,3-4', 'items=0-1', 'bytes=a-b']) t.equal(parseRange(whole, 10), null, String(whole))
  for (const none of ['bytes=10-', 'bytes=-0']) t.equal(parseRange(none, 10), 'unsatisfiable', none)
  t.equal(parseRange('bytes=0-', 0), 'unsatisfiable')
})

t.test('nothing else is served, however the path is written', async (t) => {
  for (const path of ['/', '/secret.key', '/image.json', '/../secret.key', '/%2e%2e/secret.key', '/vmlinuz/../secret.key', '/./secret.key', '//etc/passwd']) {
    t.match(await raw(`GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`), /^HTTP\/1\.1 404/, path)
  }
  t.match(await raw('POST /vmlinuz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n'), /^HTTP\/1\.1 404/)
})

t.test('a client that goes away in the middle costs nothing and is logged as cut off', async (t) => {
  const socket = connect(server.port, '127.0.0.1', () => socket.write('GET /initrd.img HTTP/1.1\r\nHost: x\r\n\r\n'))
  await new Promise((resolve) => socket.once('data', resolve))
  socket.destroy()
  while (!logged.some((entry) => entry['cutOff'] === true)) await new Promise(setImmediate)
  t.equal((await fetch(`${base}/vmlinuz`)).status, 200)
})

t.test('every answer is in the access log', async (t) => {
  await (await fetch(`${base}/vmlinuz`)).text()
  t.ok(logged.some((entry) => entry['path'] === '/vmlinuz' && entry['status'] === 200 && entry['peer'] === '127.0.0.1'))
})

t.test('a taken port and a missing image are named', async (t) => {
  await t.rejects(serveBoot({ imageDir, host: '127.0.0.1', port: server.port, controller }), { code: 'PORT_TAKEN' })
  await t.rejects(serveBoot({ imageDir: join(imageDir, 'none'), host: '127.0.0.1', port: 0, controller }), { code: 'SETUP_MISSING', message: /image build/ })
})

t.test('an image that disappears is an error of that request, and one that is built anew is served at once', async (t) => {
  await rm(join(imageDir, 'vmlinuz'))
  t.equal((await fetch(`${base}/vmlinuz`)).status, 503)
  await writeFile(join(imageDir, 'vmlinuz'), 'newer kernel')
  t.equal(await (await fetch(`${base}/vmlinuz`)).text(), 'newer kernel')
})

async function raw(request: string): Promise<string> {
  const socket = connect(server.port, '127.0.0.1', () => socket.write(request))
  let answer = ''
  for await (const chunk of socket) answer += chunk
  return answer
}
