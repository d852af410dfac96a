/** The answer to `offbox why`: finds what the question is about, and asks whoever knows. */
import { OffboxError } from '../../core/errors.ts'
import type { ServiceStatus } from '../../proto/gen/lifecycle.ts'
import { answerAgent, isAgentMethod } from './agent-answer.ts'
import { answerConfig } from './config-answer.ts'
import type { Evidence } from './evidence.ts'
import { answerService } from './service-answer.ts'
import { type Answer, answerOf } from './statement.ts'
import { AGENT, parseSubject } from './subject.ts'

/**
 * @param text as parseSubject
 * @throws ARGUMENT_INVALID the question; SERVICE_NOT_FOUND nothing of the kind runs there
 */
export async function why(evidence: Evidence, text: string): Promise<Answer> {
  const subject = parseSubject(text)
  const { deviceId } = evidence
  const services = await evidence.services()
  const running = 'value' in services ? services.value : null
  const of = (service: string): ServiceStatus | null => running?.find((one) => one.service === service) ?? null
  if (subject.kind === 'config') {
    const { service } = subject
    const status = of(service)
    if (running && !status) throw new OffboxError('SERVICE_NOT_FOUND', `${deviceId} does not run ${service}; it runs ${namesOf(running)}`)
    return answerOf({ deviceId, subject: text, service, version: status?.version ?? '' }, await answerConfig(evidence, service, subject.path, status))
  }
  const service = subject.kind === 'service' ? subject.service : ownerOf(subject.path, running, deviceId)
  if (service === AGENT) {
    const { version, statements } = await answerAgent(evidence)
    return answerOf({ deviceId, subject: text, service, version }, statements)
  }
  const status = of(service)
  if (running && !status) throw new OffboxError('SERVICE_NOT_FOUND', `${deviceId} does not run ${service}; it runs ${namesOf(running)}`)
  const { version, statements } = await answerService(evidence, service, status)
  return answerOf({ deviceId, subject: text, service, version }, statements)
}

/** @throws SERVICE_NOT_FOUND nobody serves it; ARGUMENT_INVALID nobody was asked */
function ownerOf(path: string, running: readonly ServiceStatus[] | null, deviceId: string): string {
  if (isAgentMethod(path)) return AGENT
  if (!running) throw new OffboxError('ARGUMENT_INVALID', `which service serves ${path} only ${deviceId} can tell; name the service`)
  const owner = running.find(({ methods }) => methods.includes(path))
  if (!owner) throw new OffboxError('SERVICE_NOT_FOUND', `nothing on ${deviceId} serves ${path}; it runs ${namesOf(running)}`)
  return owner.service
}

function namesOf(running: readonly ServiceStatus[]): string {
  return running.map(({ service, version }) => `${service} ${version}`).join(', ') || 'no service'
}
