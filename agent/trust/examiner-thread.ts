/**
 * The script of the thread in which an order is verified (thread-examiner.ts starts it; build.mjs makes it one file). It holds no key, no store and no
 * permission: what it is given is all it knows, and what it answers is all it does.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { codeOf, messageOf } from '../../core/errors.ts'
import { type Answer, inThisThread, type Question } from './examiner.ts'

const verdicts = new Set<string>((workerData as { verdicts: readonly string[] }).verdicts)
const examiner = inThisThread(verdicts)

parentPort?.on('message', (question: Question) => void answer(question))

async function answer(question: Question): Promise<void> {
  const { id } = question
  const send = (message: Answer, transfer: ArrayBuffer[] = []) => parentPort?.postMessage(message, transfer)
  try {
    if (question.kind === 'metadata') {
      const value = await examiner.metadata(question.request)
      send({ id, value, verdicts: [...verdicts] })
      return
    }
    const value = await examiner.bundle(question.file, question.trusted)
    send({ id, value }, [value.payload.buffer as ArrayBuffer])
  } catch (error) {
    send({ id, error: { code: codeOf(error), message: messageOf(error) } })
  }
}
