# Writes answers.json: what R says of data.csv. Run here: Rscript answers.R
# Debian: r-cran-survival r-cran-rms r-cran-proc r-cran-riskregression r-cran-jsonlite
suppressMessages({library(survival); library(pROC); library(riskRegression); library(rms); library(jsonlite)})
exact <- coxph.control(eps = 1e-13, iter.max = 200)
HORIZON <- 36

warned <- function(call) {
  said <- character()
  withCallingHandlers(call, warning = function(w) { said <<- c(said, conditionMessage(w)); invokeRestart("muffleWarning") })
  length(said) > 0
}

cox <- function(d) {
  formula <- Surv(time, event) ~ high + marker + age_days + ordinal
  separated <- warned(fit <- coxph(formula, d)) || anyNA(coef(fit))
  if (separated) return(list(separated = TRUE))
  fit <- coxph(formula, d, control = exact)
  zph <- lapply(c(km = "km", rank = "rank", identity = "identity", log = "log"),
                function(g) unname(cox.zph(fit, transform = g, terms = FALSE)$table[, "chisq"]))
  list(separated = FALSE, coefficient = unname(coef(fit)), se = unname(sqrt(diag(vcov(fit)))), loglik = fit$loglik[2],
       null = fit$loglik[1], p = unname(summary(fit)$logtest["pvalue"]), zph = zph)
}

# Firth's likelihood from coxph's own log-likelihood and information; its maximum and profile by numerical derivatives.
firth <- function(d) {
  value <- function(b) {
    f <- suppressWarnings(coxph(Surv(time, event) ~ high + marker, d, init = b, control = coxph.control(iter.max = 0)))
    f$loglik[length(f$loglik)] - 0.5 * as.numeric(determinant(vcov(f))$modulus)
  }
  best <- optim(c(0, 0), function(b) -value(b), control = list(reltol = 1e-15, maxit = 5000))$par
  for (step in 1:6) {
    h <- 1e-3; e <- diag(2) * h
    one <- function(b, i, k) (value(b + k * e[, i]) - value(b - k * e[, i])) / (2 * k * h)
    slope <- function(b) sapply(1:2, function(i) (4 * one(b, i, 1) - one(b, i, 2)) / 3)
    bend <- sapply(1:2, function(i) (slope(best + 10 * e[, i]) - slope(best - 10 * e[, i])) / (20 * h))
    best <- best - solve((bend + t(bend)) / 2, slope(best))
  }
  profile <- function(x) optimize(function(m) value(c(x, m)), best[2] + c(-2, 2), maximum = TRUE, tol = 1e-10)$objective
  top <- value(best); floor <- top - qchisq(0.95, 1) / 2
  end <- function(side) {
    far <- best[1] + side
    while (profile(far) > floor) far <- far + side
    uniroot(function(x) profile(x) - floor, sort(c(best[1], far)), tol = 1e-10)$root
  }
  list(coefficient = best, low = end(-1), high = end(1), p = pchisq(2 * (top - profile(0)), 1, lower.tail = FALSE))
}

one <- function(d) {
  y <- Surv(d$time, d$event)
  third <- findInterval(d$marker, quantile(d$marker, c(1, 2) / 3, type = 7), left.open = TRUE)
  km <- survfit(y ~ 1, conf.type = "log-log")
  at <- summary(km, times = c(6, 12, 24, 36), extend = FALSE)
  last <- HORIZON < max(d$time)
  risk <- plogis(d$score)
  timed <- if (last) suppressMessages(Score(list(s = cbind(risk)), Surv(time, event) ~ 1, data = d, times = HORIZON,
    metrics = c("auc", "brier"), cens.model = "km", se.fit = FALSE, null.model = FALSE)) else NULL
  r1 <- roc(d$target, d$score, direction = "<", quiet = TRUE); r2 <- roc(d$target, d$second, direction = "<", quiet = TRUE)
  lp <- qlogis(risk)
  early <- Surv(pmin(d$time, HORIZON), d$event & d$time <= HORIZON)
  slope <- coxph(early ~ I(log(-log(1 - risk))), control = exact)
  calibrated <- val.prob(risk, d$target, pl = FALSE)
  sloped <- glm(target ~ lp, binomial, d, control = glm.control(epsilon = 1e-14, maxit = 100))
  large <- glm(target ~ offset(lp), binomial, d, control = glm.control(epsilon = 1e-14, maxit = 100))
  med <- quantile(km, 0.5)
  list(
    cox = cox(d),
    firth = firth(d),
    logrank = list(high = survdiff(y ~ d$high)$chisq, third = survdiff(y ~ third)$chisq),
    km = list(time = at$time, survival = at$surv, low = at$lower, high = at$upper,
              median = unname(c(med$quantile, med$lower, med$upper))),
    harrell = unname(concordance(y ~ score, d, reverse = TRUE)$concordance),
    uno = unname(concordance(y ~ score, d, reverse = TRUE, timewt = "n/G2")$concordance),
    timed_auc = if (last) timed$AUC$score$AUC else NULL,
    timed_brier = if (last) timed$Brier$score$Brier else NULL,
    auc = as.numeric(ci.auc(r1, method = "delong"))[c(2, 1, 3)],
    brier = unname(calibrated["Brier"]),
    val_prob_slope = unname(calibrated["Slope"]),
    slope = c(unname(coef(sloped)[2]), sqrt(vcov(sloped)[2, 2])),
    intercept = c(unname(coef(large)), sqrt(vcov(large)[1, 1])),
    survival_slope = c(unname(coef(slope)), sqrt(vcov(slope)[1, 1]))
  )
}

args <- commandArgs(trailingOnly = TRUE)
d <- read.csv("data.csv")
answers <- lapply(split(d, factor(d$group, unique(d$group))), one)
answers$versions <- list(R = paste(R.version$major, R.version$minor, sep = "."),
  survival = as.character(packageVersion("survival")), pROC = as.character(packageVersion("pROC")),
  riskRegression = as.character(packageVersion("riskRegression")), rms = as.character(packageVersion("rms")))
write_json(answers, "answers.json", digits = NA, auto_unbox = TRUE, null = "null", na = "null", pretty = TRUE)
