import { createPrivateKey, X509Certificate } from 'node:crypto'
import t from 'tap'
import { makeCa, makeCsr, makeIdentity, readLeaf, signCsr } from '../../core/x509.ts'

const nowMs = Date.now()
const dayMs = 86_400_000

t.test('a device certificate carries the names the CA chose, not those of the request', async (t) => {
  const ca = await makeCa('lab', { nowMs, validMs: 10 * dayMs })
  const { csrPem } = await makeCsr('somebody-else')
  const pem = await signCsr(ca, csrPem, { fleet: 'lab', role: 'device', id: 'sw1', nowMs, validMs: dayMs })
  const leaf = readLeaf(pem)
  t.equal(leaf.spiffeId, 'spiffe://lab/device/sw1')
  t.same(leaf.dnsNames, ['sw1.lab.offbox'])
  t.ok(new X509Certificate(pem).verify(new X509Certificate(ca.certificatePem).publicKey))
  t.same(new X509Certificate(pem).keyUsage, ['1.3.6.1.5.5.7.3.1'], 'serverAuth only: a device cannot command another')
})

t.test('operators get clientAuth only', async (t) => {
  const ca = await makeCa('lab', { nowMs, validMs: 10 * dayMs })
  const { certificatePem } = await makeIdentity(ca, { fleet: 'lab', role: 'operator', id: 'me', nowMs, validMs: dayMs })
  t.same(new X509Certificate(certificatePem).keyUsage, ['1.3.6.1.5.5.7.3.2'])
})

t.test('a certificate never outlives its CA', async (t) => {
  const ca = await makeCa('lab', { nowMs, validMs: dayMs })
  const { certificatePem } = await makeIdentity(ca, { fleet: 'lab', role: 'operator', id: 'me', nowMs, validMs: 10 * dayMs })
  t.ok(readLeaf(certificatePem).notAfterMs <= nowMs + dayMs)
})

t.test('a request with a wrong signature, or no request at all, is CSR_INVALID', async (t) => {
  const ca = await makeCa('lab', { nowMs, validMs: 10 * dayMs })
  const names = { fleet: 'lab', role: 'device', id: 'sw1', nowMs, validMs: dayMs } as const
  const { csrPem } = await makeCsr('x')
  const der = Buffer.from(csrPem.replace(/-----[^-]+-----|\s/g, ''), 'base64')
  der[der.length - 1] = (der[der.length - 1] ?? 0) ^ 1
  const flipped = `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`
  for (const bad of [flipped, 'rubbish', '', 'x'.repeat(10_000)]) await t.rejects(signCsr(ca, bad, names), { code: 'CSR_INVALID' })
})

t.test('a device can ask again for the key it has', async (t) => {
  const ca = await makeCa('lab', { nowMs, validMs: 10 * dayMs })
  const first = await makeCsr('sw1')
  const again = await makeCsr('sw1', first.keyPem)
  const pem = await signCsr(ca, again.csrPem, { fleet: 'lab', role: 'device', id: 'sw1', nowMs, validMs: dayMs })
  t.ok(new X509Certificate(pem).checkPrivateKey(createPrivateKey(first.keyPem)))
})
